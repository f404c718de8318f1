-- A workflow: the name under which versions of a definition are kept.
CREATE TABLE workflows (
    id         TEXT        NOT NULL CONSTRAINT workflows_key PRIMARY KEY,
    namespace  TEXT        NOT NULL,
    name       TEXT        NOT NULL,
    version    INTEGER     NOT NULL,
    status     TEXT        NOT NULL CONSTRAINT workflows_status CHECK (status IN ('active', 'archived')),
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
COMMENT ON COLUMN workflows.id IS 'wf_…; ids grow with time, so their order is that of creation';
COMMENT ON COLUMN workflows.name IS 'of the newest version';
COMMENT ON COLUMN workflows.version IS 'the newest';

-- A name belongs to one active workflow; archiving frees it.
CREATE UNIQUE INDEX workflows_active_name ON workflows (namespace, name) WHERE status = 'active';

-- Lists page through a namespace in the order of ids.
CREATE INDEX workflows_namespace ON workflows (namespace, id);

-- What was defined. Rows never change: a running execution stays on its version.
CREATE TABLE workflow_versions (
    workflow_id TEXT    NOT NULL CONSTRAINT workflow_versions_workflow REFERENCES workflows (id),
    version     INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    -- As text: it is shown as it was given.
    definition  TEXT    NOT NULL,
    step_count  INTEGER NOT NULL,
    CONSTRAINT workflow_versions_key PRIMARY KEY (workflow_id, version)
);
