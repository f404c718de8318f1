-- Whoever changes a key says which state of it they have seen: of two who have seen the same, one wins.
--
-- Grows by one when the key is rotated or revoked; that it was used is no change.
ALTER TABLE api_keys ADD COLUMN revision BIGINT NOT NULL DEFAULT 1;
COMMENT ON COLUMN api_keys.revision IS 'Grows by one when the key is rotated or revoked.';
