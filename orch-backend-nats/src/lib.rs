//! Queue and lock of orch on NATS JetStream.
