//! Clients of the HTTP gateway and of the local socket that misbehave.
