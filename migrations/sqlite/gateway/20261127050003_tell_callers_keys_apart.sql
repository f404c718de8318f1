-- An `Idempotency-Key` is its caller's: what another one uses disturbs nobody. It is kept as the caller, as the audit log names them,
-- a space, and the key as the client chose it.
--
-- The caller was the end of the route, where it was not whoever is at the machine.
UPDATE idempotency_records
SET idempotency_key = CASE instr(route, ' of ') WHEN 0 THEN 'anonymous:loopback' ELSE substr(route, instr(route, ' of ') + 4) END
        || ' ' || idempotency_key,
    route = CASE instr(route, ' of ') WHEN 0 THEN route ELSE substr(route, 1, instr(route, ' of ') - 1) END;
