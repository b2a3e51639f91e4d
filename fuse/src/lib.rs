//! The FUSE adapter: the only place that knows fuser and errno.
