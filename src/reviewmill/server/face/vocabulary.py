"""The words of follow-up questions, in Chinese and English. A kind's words stand in one string, divided by spaces."""

from __future__ import annotations

from typing import Final

LABELS: Final[dict[str, str]] = {
    "negative": (
        "负面 负面的 差评 消极 不满 抱怨 投诉 吐槽 缺点 negative negatives complaint complaints complain "
        "complaining dislike hate"
    ),
    "positive": "正面 正面的 好评 积极 满意的 表扬 夸 优点 positive positives praise compliments love",
    "neutral": "中性 中性的 中立 中评 neutral neutrals",
    "joy": "喜悦 高兴 开心 快乐 joy joyful",
    "anger": "愤怒 生气 anger angry",
    "sadness": "悲伤 难过 伤心 sadness sad",
    "fear": "恐惧 害怕 fear fearful",
    "surprise": "惊讶 surprise surprised",
    "disgust": "厌恶 disgust disgusted",
    "none": "没有情绪 无情绪",
}
"""What people call the labels of the built-in tasks, beside the labels' own names."""

LOOSE: Final[dict[str, str]] = {
    "negative": "bad unhappy critical",
    "positive": "good happy",
}
"""Words that mean a label only beside a word such as "ones": "only good" may be a comment."""

WORDS: Final[dict[str, str]] = {
    "show": (
        "只看 仅看 只显示 只列出 看看 看一下 查看 显示 列出 列举 找出 筛选 筛选出 过滤 展示 看 show list "
        "see view display find filter only"
    ),
    "which": "哪些 哪几条 哪条 which",
    "why": "为什么 为何 为啥 凭什么 怎么会 怎么 原因 理由 解释 解释一下 why explain reason reasons",
    "export": "导出 导出来 下载 export download",
    "summarise": "总结 总结一下 概括 概括一下 归纳 概述 提炼 summarise summarize summarising summarizing",
    "say": (
        "说 讲 提到 反映 抱怨 吐槽 夸 喜欢 不满 问题 优点 缺点 say saying complain complaining complaints "
        "like dislike love hate praise problems issues themes topics"
    ),
    "what": "什么 哪些 what",
    "uncertain": "不确定 没把握 没有把握 拿不准 置信度最低 信心最低 uncertain unsure",
    "least": "least lowest",
    "sure": "certain confident sure confidence",
    "stats": (
        "统计 分布 占比 比例 概况 总览 总体情况 整体情况 多少 几条 情况 stats statistics distribution "
        "breakdown overview counts totals percentage percentages share shares"
    ),
    "status": (
        "进度 状态 结果 继续 分析 分析一下 analyse analyze analysis 好了吗 好了没 完成了吗 分析完了吗 "
        "status progress continue summary results"
    ),
    "how": "how",
    "many": "many",
    "keywords": "关键词 关键字 高频词 热词 keywords keyword",
    "help": "帮助 怎么用 能问什么 可以问什么 你能做什么 help",
    "review": "需要复核 待复核 要复核 复核 人工复核 review",
    "needs": "needs need needing",
    "failed": "出错 失败 failed errors",
    "empty": "无可判断",
    "except": "除了 以外 之外 except",
    "not": "不是 not",
    "csv": "csv",
    "xlsx": "excel xlsx 表格",
    "jsonl": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "noun": "评论 评价 的 那些 这些 部分 内容 反馈 意见 ones comments reviews rows feedback",
    "filler": (
        "里 里面 中 上面 请 麻烦 帮我 帮忙 能不能 可不可以 可以 能 给我 我想 我要 想 要 再 然后 那 那么 现在 "
        "你 一下 下 "
        "吗 吧 呢 好吗 谢谢 啊 呗 全部 所有 完整 整个 数据 文件 格式 链接 把 成 为 到 出来 出 有 是 都 "
        "主要 最 最大 常见 大家 客户 用户 顾客 他们 在 些 这条 它 这个 个 条 几 被 判为 判成 算 会 属于 "
        "和 与 或 占 一共 总共 哪 其中 了 详情 情感 结果 please can could would you me us the a an all of "
        "and or to as in into it this that those these them is are was were be i want like to d s let now "
        "then just ok okay thanks thank for by on do does did with from file table data link spreadsheet "
        "sheet format result results whole full everything main most common top people customers customer "
        "users they their about labelled labeled classified marked rated considered called give get there "
        "have in short brief"
    ),
}
"""All other words by what they say; a filler says nothing."""
