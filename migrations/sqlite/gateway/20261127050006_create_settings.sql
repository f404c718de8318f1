-- What all gateways on this database agree about.
CREATE TABLE settings (
    -- `secret`: names the secret under which keys and tokens are kept, and tells nothing of it.
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT settings_pk PRIMARY KEY (name)
) STRICT, WITHOUT ROWID;
