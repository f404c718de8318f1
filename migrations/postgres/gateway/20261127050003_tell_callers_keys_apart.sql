-- An `Idempotency-Key` is its caller's: what another one uses disturbs nobody. It is kept as the caller, as the audit log names them,
-- a space, and the key as the client chose it.
--
-- The caller was the end of the route, where it was not whoever is at the machine.
UPDATE idempotency_records
SET idempotency_key = coalesce(nullif(split_part(route, ' of ', 2), ''), 'anonymous:loopback') || ' ' || idempotency_key,
    route = split_part(route, ' of ', 1);
COMMENT ON COLUMN idempotency_records.idempotency_key IS 'whose it is, as the audit log names them, and as they chose it';
COMMENT ON COLUMN idempotency_records.route IS 'method and path; the same key for another route is refused';
