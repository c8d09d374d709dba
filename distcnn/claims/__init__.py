"""The article's claims: each with what it is measured by, and the verdict on what was measured."""
