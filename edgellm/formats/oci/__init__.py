"""Layouts of the Open Container Initiative (image-spec 1.1): folders with images and other artifacts, by digest."""
