//! Store, queue and lock of orch on Redis or Valkey.
