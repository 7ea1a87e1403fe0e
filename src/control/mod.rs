//! How others talk to the supervisor: the API, its two doors, its client.
