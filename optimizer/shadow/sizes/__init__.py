"""Sizes of indexes that do not exist, from statistics alone, one model an access method."""
