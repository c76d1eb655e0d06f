"use strict";
Object.defineProperty(exports, "__esModule", { value: true });
exports.revokeKey = exports.listContacts = exports.listAgents = exports.createKey = void 0;
var sdk_gen_1 = require("./sdk.gen");
Object.defineProperty(exports, "createKey", { enumerable: true, get: function () { return sdk_gen_1.createKey; } });
Object.defineProperty(exports, "listAgents", { enumerable: true, get: function () { return sdk_gen_1.listAgents; } });
Object.defineProperty(exports, "listContacts", { enumerable: true, get: function () { return sdk_gen_1.listContacts; } });
Object.defineProperty(exports, "revokeKey", { enumerable: true, get: function () { return sdk_gen_1.revokeKey; } });
