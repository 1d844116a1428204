"""Latents to files for people: decoded images, contact sheets, figures of a query."""
