-- Several replicas record messages, and each of them may find what another has left behind.

-- The order of acceptance, over all replicas.
CREATE SEQUENCE messages_sequence AS BIGINT;
SELECT setval('messages_sequence', (SELECT COALESCE(MAX(sequence), 0) + 1 FROM messages), false);

-- What was accepted and not yet handed to the broker, by the one who accepted it: another takes it over.
CREATE INDEX messages_accepted ON messages (sequence) WHERE status = 'accepted';
-- What runs out while nobody takes it.
CREATE INDEX messages_expiring ON messages (expires_at)
    WHERE expires_at IS NOT NULL AND status IN ('accepted', 'queued');

-- A message dies once, whoever notices, until it is replayed.
CREATE UNIQUE INDEX dead_letters_open ON dead_letters (namespace, subject_id) WHERE kind = 'message' AND replayed_at IS NULL;
