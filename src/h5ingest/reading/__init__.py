"""Reading one dataset each: mapped bytes, decoded chunks, text. `store` puts them together."""
