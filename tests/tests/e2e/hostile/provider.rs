//! A provider that bills what it did not deliver.
