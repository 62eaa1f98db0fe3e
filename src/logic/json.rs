//! JSON as bytes: escaping text, compacting values.
