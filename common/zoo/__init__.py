"""Published weights by name: where they are, and whether they are whole. Imports base/, checkpoint/ and symbols/."""
