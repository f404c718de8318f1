-- A message that is replayed is accepted once more: whoever sees to what was left on the way finds it, and says to the broker
-- that it is not the one that had died.
ALTER TABLE messages ADD COLUMN revived_at TIMESTAMPTZ;
COMMENT ON COLUMN messages.revived_at IS 'when it was last replayed, having died; it counts as accepted from then on';
