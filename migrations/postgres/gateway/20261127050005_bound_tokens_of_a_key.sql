-- A key has so many families that are good, and what was revoked is not kept for ever.
CREATE INDEX token_families_of_key ON token_families (key_id, created_at, id) WHERE revoked_at IS NULL;
CREATE INDEX token_families_revocation ON token_families (revoked_at) WHERE revoked_at IS NOT NULL;
