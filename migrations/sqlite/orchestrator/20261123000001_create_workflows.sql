-- A workflow: the name under which versions of a definition are kept.
CREATE TABLE workflows (
    id         TEXT    NOT NULL PRIMARY KEY,           -- wf_…
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,                       -- of the newest version
    version    INTEGER NOT NULL,                       -- the newest
    status     TEXT    NOT NULL CONSTRAINT workflows_status CHECK (status IN ('active', 'archived')),
    created_at INTEGER NOT NULL,                       -- microseconds since the epoch, as every time here
    updated_at INTEGER NOT NULL
) STRICT;

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
    definition  TEXT    NOT NULL,                      -- JSON, as it was given
    step_count  INTEGER NOT NULL,
    CONSTRAINT workflow_versions_key PRIMARY KEY (workflow_id, version)
) STRICT;
