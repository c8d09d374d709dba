"""The one training path: `fit` trains, `finalize` chooses and tests, `local` does both here."""
