-- Every replica of the registry answers from an index of its own, and is told of every change by a notification in the
-- transaction that makes it. A trigger, since no writer can forget it: also a change by hand is seen.
CREATE FUNCTION notify_of_agent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('registry_agents', OLD.id || ' ' || OLD.revision);
    ELSE
        PERFORM pg_notify('registry_agents', NEW.id || ' ' || NEW.revision);
    END IF;
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION notify_of_agent() IS 'tells the channel registry_agents the id and revision of an agent that was written';

CREATE TRIGGER agents_notify AFTER INSERT OR UPDATE OR DELETE ON agents
    FOR EACH ROW EXECUTE FUNCTION notify_of_agent();
