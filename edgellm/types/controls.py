"""Characters that show nothing and change how what stands beside them is shown, as bodies of a class in `re`."""

# C0 other than tab and newline, and C1: they steer a terminal.
STEERING = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
# Embeddings, overrides and isolates (UAX 9): what is between them is shown in another order than it is written.
ORDERING = r"\u202a-\u202e\u2066-\u2069"
# The rest that nobody sees, but the joiners U+200C and U+200D, which Persian, Indian scripts and emoji need: soft
# hyphen, Arabic letter mark, Mongolian separator, blank of no width, mark from right to left, separators of lines and
# paragraphs, invisible operators, byte order mark, annotations, tags.
UNSEEN = (
    r"\xad\u061c\u180e\u200b\u200f\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
MARK = "\u200e"  # from left to right: as a letter of Latin would, it ends what is shown from right to left
