"""Surrogates: kernel machines that stand in for networks, and what they say of them."""
