//! The loop that joins the supervisor, the host and the doors: one task, one `select!`, the only caller of `step`.
