//! What this process tells whoever supervises it: systemd, or sandkeep itself when this is a worker. sd_notify(3).
