-- The path of what a request has made; empty where it has made nothing.
ALTER TABLE audit_log ADD COLUMN resource TEXT NOT NULL DEFAULT '';
-- Of a key, what it may and where; empty elsewhere.
ALTER TABLE audit_log ADD COLUMN details TEXT NOT NULL DEFAULT '';
