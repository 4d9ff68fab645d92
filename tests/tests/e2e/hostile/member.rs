//! A member of the mesh that claims what belongs to others.
