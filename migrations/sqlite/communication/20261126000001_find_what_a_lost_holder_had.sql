-- What was handed over and expires while its holder is gone: nobody sees it expire, since a message in somebody's hands does
-- not. Holders say now and then that they still are: when it was last handed over, or its holder last said so.
ALTER TABLE messages ADD COLUMN held_at INTEGER;
CREATE INDEX messages_expired_held ON messages (expires_at) WHERE expires_at IS NOT NULL AND status = 'delivered';
