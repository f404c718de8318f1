-- What a person wants to know of a task that died, besides what every letter tells: JSON `{"execution_id", "step_id", "index",
-- "attempt", "action", "hand_overs"}`. Absent for messages, whose rows tell it.
ALTER TABLE dead_letters ADD COLUMN task TEXT;
