-- What a key was exchanged for ends with the secret that was presented: where that is gone, or opens no more, neither do they.
-- Families of before do not say which secret that was, and are good no more.

-- The part of the key's secret that is no secret; NULL where the key is the one of the settings.
ALTER TABLE token_families ADD COLUMN secret_prefix TEXT;
