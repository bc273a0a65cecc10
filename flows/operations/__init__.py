"""Operations: deployments registered and served, automations, and the local stack of database, server and worker."""
