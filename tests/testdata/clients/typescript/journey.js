// This program uses the generated client against a running server: it creates a key, uses it, meets
// 403 and 429, and revokes it. The tests run it. Its arguments are the URLs of the API and of the
// admin endpoint; the admin token is in LATCHKEY_ADMIN_TOKEN.
const { createClient, createConfig } = require('./client/client');
const { createKey, listAgents, listContacts, revokeKey } = require('./client');

const clientWith = (baseUrl, auth) => createClient(createConfig({ baseUrl, auth }));

function want(holds, what, answer) {
  if (!holds) {
    throw new Error(`${what}: ${answer.response?.status} ${JSON.stringify(answer.error ?? answer.data)}`);
  }
}

async function journey(api, admin, token) {
  const operator = clientWith(admin, token);
  const made = await createKey({
    client: operator,
    body: { name: 'journey', permissions: ['can_read_agents'], limits: { requests_per_minute_limit: 3 } },
  });
  want(made.response?.status === 201, 'create a key', made);
  const client = clientWith(api, made.data.key);
  let agents = await listAgents({ client });
  want(Array.isArray(agents.data?.agents), 'list the agents', agents);
  const contacts = await listContacts({ client });
  want(contacts.response?.status === 403 && contacts.error.error === 'permission_denied', 'list the contacts', contacts);
  while (agents.response?.status === 200) {
    agents = await listAgents({ client });
  }
  want(agents.response?.status === 429 && agents.response.headers.get('Retry-After'), 'exceed the limit', agents);
  const revoked = await revokeKey({ client: operator, path: { id: made.data.id } });
  want(revoked.data?.status === 'revoked', 'revoke the key', revoked);
  agents = await listAgents({ client });
  want(agents.response?.status === 401 && agents.error.error === 'invalid_key', 'use the revoked key', agents);
  console.log('200 403 429 401');
}

journey(process.argv[2], process.argv[3], process.env.LATCHKEY_ADMIN_TOKEN).catch((err) => {
  console.error(err.message);
  process.exit(1);
});
