"use strict";
Object.defineProperty(exports, "__esModule", { value: true });
exports.revokeKey = exports.createKey = exports.listContacts = exports.listAgents = void 0;
const client_gen_1 = require("./client.gen");
const listAgents = (options) => (options?.client ?? client_gen_1.client).get({
    security: [
        {
            key: 'bearer',
            scheme: 'bearer',
            type: 'http'
        },
        { name: 'X-API-Key', type: 'apiKey' },
        {
            in: 'query',
            name: 'api_key',
            type: 'apiKey'
        }
    ],
    url: '/api/v1/agents',
    ...options
});
exports.listAgents = listAgents;
const listContacts = (options) => (options?.client ?? client_gen_1.client).get({
    security: [
        {
            key: 'bearer',
            scheme: 'bearer',
            type: 'http'
        },
        { name: 'X-API-Key', type: 'apiKey' },
        {
            in: 'query',
            name: 'api_key',
            type: 'apiKey'
        }
    ],
    url: '/api/v1/contacts',
    ...options
});
exports.listContacts = listContacts;
const createKey = (options) => (options.client ?? client_gen_1.client).post({
    security: [{
            key: 'adminToken',
            scheme: 'bearer',
            type: 'http'
        }],
    url: '/admin/v1/keys',
    ...options,
    headers: {
        'Content-Type': 'application/json',
        ...options.headers
    }
});
exports.createKey = createKey;
const revokeKey = (options) => (options.client ?? client_gen_1.client).post({
    security: [{
            key: 'adminToken',
            scheme: 'bearer',
            type: 'http'
        }],
    url: '/admin/v1/keys/{id}/revoke',
    ...options,
    headers: {
        'Content-Type': 'application/json',
        ...options.headers
    }
});
exports.revokeKey = revokeKey;
