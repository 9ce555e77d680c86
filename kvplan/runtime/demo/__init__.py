"""The small model that ships with kvplan, how it was trained, and the text it was trained on. Needs no download."""
