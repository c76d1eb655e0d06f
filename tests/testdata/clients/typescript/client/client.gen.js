"use strict";
Object.defineProperty(exports, "__esModule", { value: true });
exports.client = void 0;
const client_1 = require("./client");
exports.client = (0, client_1.createClient)((0, client_1.createConfig)({ baseUrl: 'http://127.0.0.1:8080' }));
