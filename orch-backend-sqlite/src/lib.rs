//! Store, queue and lock of orch in one SQLite file.
