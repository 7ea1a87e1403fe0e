import { defineSchema } from "convex/server";
import { agentTables } from "./tables";

export default defineSchema(agentTables);
