"""Figures and tables for people: functions from tidy tables to figures, in one style."""
