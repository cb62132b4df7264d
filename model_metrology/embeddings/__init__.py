"""Embeddings: can one large model tell what other models wrote or drew?"""
