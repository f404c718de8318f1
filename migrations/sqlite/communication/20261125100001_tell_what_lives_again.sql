-- A message that is replayed is accepted once more, from this time on: whoever sees to what was left on the way finds it, and
-- says to the broker that it is not the one that had died.
ALTER TABLE messages ADD COLUMN revived_at INTEGER;
