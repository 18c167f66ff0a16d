//! Store, queue and lock of orch on MongoDB.
