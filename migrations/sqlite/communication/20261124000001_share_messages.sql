-- A message dies once, whoever notices, until it is replayed.
CREATE UNIQUE INDEX dead_letters_open ON dead_letters (namespace, subject_id) WHERE kind = 'message' AND replayed_at IS NULL;
