//! A peer without any agreement.
