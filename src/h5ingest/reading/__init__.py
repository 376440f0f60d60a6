"""Reading one dataset each: mapped bytes, decoded chunks, text. `reader` puts them together."""
