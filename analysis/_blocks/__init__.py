"""What is read together: chunks of stores, and blocks of datasets that are always the same."""
