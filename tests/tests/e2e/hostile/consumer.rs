//! A consumer that repeats, hangs up, floods, and signs what is not so.
