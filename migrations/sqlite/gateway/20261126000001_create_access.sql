-- Who may come in, and what was done.
--
-- A key has one secret, or two while it is being rotated. Secrets are not kept: their HMAC-SHA-256 under the gateway's own secret
-- is, and the part by which a presented key is found. Keys are never deleted, so that the audit log goes on naming them.
CREATE TABLE api_keys (
    -- `key_…`
    id           TEXT    NOT NULL,
    -- For people.
    name         TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    -- Permissions with spaces between them; NULL: all of the role's.
    scopes       TEXT,
    -- The only namespace that it opens; NULL: every one.
    namespace    TEXT,
    -- The only agent that may use it; NULL: people and programs may.
    agent_id     TEXT,
    -- Who made it.
    created_by   TEXT    NOT NULL,
    -- Microseconds since the Unix epoch, as the following ones.
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    -- About: written once a minute, not with every request.
    last_used_at INTEGER,
    CONSTRAINT api_keys_pk PRIMARY KEY (id)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key_secrets (
    -- The part of a key's text that is no secret.
    prefix     TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    -- HMAC-SHA-256 of the whole text.
    hash       BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    -- After a rotation: until when the old secret still opens.
    expires_at INTEGER,
    CONSTRAINT api_key_secrets_pk PRIMARY KEY (prefix),
    CONSTRAINT api_key_secrets_key FOREIGN KEY (key_id) REFERENCES api_keys (id)
) STRICT, WITHOUT ROWID;

-- For rotation, and for looking at a key.
CREATE INDEX api_key_secrets_of_key ON api_key_secrets (key_id);

-- What one exchange of a key for tokens has led to. Revoking the family ends all of it.
CREATE TABLE token_families (
    id         TEXT    NOT NULL,
    -- The key that was exchanged; not of this table where it is the one of the settings.
    key_id     TEXT    NOT NULL,
    -- The principal as JSON, as it was when the key was exchanged.
    principal  TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    -- No later than this is anything of the family good.
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CONSTRAINT token_families_pk PRIMARY KEY (id)
) STRICT, WITHOUT ROWID;

-- For the janitor.
CREATE INDEX token_families_expiry ON token_families (expires_at);

CREATE TABLE refresh_tokens (
    -- The part of its text that is no secret.
    prefix     TEXT    NOT NULL,
    family_id  TEXT    NOT NULL,
    hash       BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    -- A token is used once; whoever comes with it again is a thief, or was robbed.
    used_at    INTEGER,
    CONSTRAINT refresh_tokens_pk PRIMARY KEY (prefix),
    CONSTRAINT refresh_tokens_family FOREIGN KEY (family_id) REFERENCES token_families (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_of_family ON refresh_tokens (family_id);

-- Every mutation and every denied attempt, in order, each chained to the one before by its hash.
CREATE TABLE audit_log (
    seq            INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    -- Who, as `key:key_…`; empty where nobody known came.
    actor          TEXT    NOT NULL,
    role           TEXT    NOT NULL,
    -- What was asked for: a permission's name.
    action         TEXT    NOT NULL,
    -- Method and template of the path.
    route          TEXT    NOT NULL,
    -- The path itself.
    target         TEXT    NOT NULL,
    namespace      TEXT    NOT NULL,
    -- From where.
    address        TEXT    NOT NULL,
    -- The answer's status, and its code where it is a failure.
    status         INTEGER NOT NULL,
    code           TEXT    NOT NULL,
    correlation_id TEXT    NOT NULL,
    request_id     TEXT    NOT NULL,
    -- BLAKE3 over the hash of the entry before and all of the above.
    hash           BLOB    NOT NULL,
    CONSTRAINT audit_log_pk PRIMARY KEY (seq)
) STRICT;

-- For those who look at one namespace, or after one actor.
CREATE INDEX audit_log_of_namespace ON audit_log (namespace, seq);
CREATE INDEX audit_log_of_actor ON audit_log (actor, seq);

-- An entry that replaces one fires none of the triggers below.
CREATE TRIGGER audit_log_only_grows BEFORE INSERT ON audit_log
WHEN EXISTS (SELECT 1 FROM audit_log WHERE seq >= NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_log_is_not_changed BEFORE UPDATE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_log_is_not_shortened BEFORE DELETE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
