-- For those who look for what one request did, and for the writer, where it does not know whether an entry is there.
CREATE INDEX audit_log_of_request ON audit_log (request_id);
