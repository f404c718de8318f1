-- What a person wants to know of a task that died, besides what every letter tells.
ALTER TABLE dead_letters ADD COLUMN task TEXT;
COMMENT ON COLUMN dead_letters.task IS
    'JSON {"execution_id","step_id","index","attempt","action","hand_overs"}; absent for messages, whose rows tell it';
