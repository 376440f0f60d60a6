"""The main job, from a manifest to a published file."""
