"""Published weights by name: where they are, and whether they are intact. Imports base/, checkpoint/ and symbols/."""
